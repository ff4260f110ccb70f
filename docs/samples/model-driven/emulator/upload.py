"""Adds the form to the emulated organization: `python upload.py http://127.0.0.1:5380` prints the URL of the form."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "new_quote_form.js": HERE.parent / "quote-form.js",
    "new_xrm_shim.js": HERE / "xrm-shim.js",
    "new_form.html": HERE / "form.html",
}

if len(sys.argv) != 2 or not sys.argv[1].startswith("http"):
    sys.exit(
        "Usage: python upload.py URL. The URL is that of the emulator's HTTP server, such as http://127.0.0.1:5380."
    )
emulator = sys.argv[1].rstrip("/")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches this machine
url = ""
for name, file in FILES.items():
    address = f"{emulator}/emulator/dataverse/webresources/{name}"
    request = urllib.request.Request(address, data=file.read_bytes(), method="PUT")  # noqa: S310 - the user's own URL
    try:
        with opener.open(request, timeout=30) as answer:
            url = json.load(answer)["url"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{address} answered {error.code}. Give the emulator's URL without a path.")
    except (OSError, ValueError) as error:
        sys.exit(f"Nothing at {emulator} is the emulator: {error}")
sys.stdout.write(f"{url}?user=ada\n")
