import importlib
try:
    module = importlib.import_module("sitecustomize")
    print(module.__file__, module.__spec__, sorted(vars(module)))
except ImportError as error:
    print(error)
