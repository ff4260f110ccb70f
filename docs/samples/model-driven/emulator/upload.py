"""Adds the form to the emulated organization: `python upload.py http://127.0.0.1:5380` prints the URL of the form."""

import json
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "new_quote_form.js": HERE.parent / "quote-form.js",
    "new_xrm_shim.js": HERE / "xrm-shim.js",
    "new_form.html": HERE / "form.html",
}

emulator = sys.argv[1].rstrip("/")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches this machine
url = ""
for name, file in FILES.items():
    address = f"{emulator}/emulator/dataverse/webresources/{name}"
    request = urllib.request.Request(address, data=file.read_bytes(), method="PUT")  # noqa: S310 - the user's own URL
    with opener.open(request, timeout=30) as answer:
        url = json.load(answer)["url"]
sys.stdout.write(f"{url}?user=ada\n")
