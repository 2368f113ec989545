async def work():
    pass


coroutine = work()
