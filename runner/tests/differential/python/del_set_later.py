class Quiet:
    pass


kept = Quiet()
Quiet.__del__ = lambda self: print("del", __name__)
