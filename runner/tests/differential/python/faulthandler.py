import faulthandler
faulthandler.dump_traceback(all_threads=False)
print(faulthandler.is_enabled())
