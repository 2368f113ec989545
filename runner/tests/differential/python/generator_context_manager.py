from contextlib import ExitStack, contextmanager


@contextmanager
def noisy():
    print("enter")
    try:
        yield
    finally:
        print("leave")


manager = noisy()
manager.__enter__()
