import multiprocessing as mp


def square(n):
    return n * n


if __name__ == "__main__":
    mp.set_start_method("fork")
    with mp.Pool(2) as pool:
        print(pool.map(square, range(5)))
    process = mp.Process(target=print, args=("from a process",), daemon=True)
    process.start()
    process.join()
    print(process.exitcode)
