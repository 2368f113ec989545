import tempfile
kept = tempfile.NamedTemporaryFile()
directory = tempfile.TemporaryDirectory()
kept.write(b"x")
