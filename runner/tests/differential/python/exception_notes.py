error = ValueError("with notes")
error.add_note("first note")
raise error
