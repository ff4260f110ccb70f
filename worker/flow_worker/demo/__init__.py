"""The main job, end to end, on a laptop: emulator and worker as processes of their own, and a sender to play with."""

from flow_worker.demo.run import play

__all__ = ["play"]
