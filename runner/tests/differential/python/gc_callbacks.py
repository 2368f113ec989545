import gc
gc.callbacks.append(lambda phase, info: None)
gc.disable()
print("end")
