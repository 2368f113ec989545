import builtins
print("x")
builtins.hasattr = builtins.len = builtins.type = None
