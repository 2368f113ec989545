if __name__ == "__main__":
    print("main", __file__, __doc__, __package__, __cached__ if "__cached__" in globals() else "-")
