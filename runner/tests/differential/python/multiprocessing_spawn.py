import multiprocessing as mp
import sys


def work(queue):
    queue.put((__name__, sys.argv, sys.path[0]))


print("loaded as", __name__)
if __name__ == "__main__":
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
