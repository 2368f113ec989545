import argparse, base64, collections, csv, dataclasses, datetime, decimal, email, fractions
import functools, hashlib, heapq, html, http.client, itertools, json, logging, math, pathlib, re
import shutil, socket, sqlite3, statistics, string, struct, tempfile, textwrap, typing, urllib.parse
import xml.etree.ElementTree, zipfile, zlib
print(json.dumps({"a": [1, 2.5, None]}), re.findall("b+", "abbb"), datetime.date(2026, 1, 2))
print(hashlib.sha256(b"x").hexdigest(), decimal.Decimal("1.1") * 3, math.comb(5, 2))
logging.warning("logged")
with tempfile.TemporaryDirectory() as directory:
    pathlib.Path(directory, "f").write_text("text")
    print(shutil.disk_usage(directory).total > 0)
