import code
code.interact(banner="banner")
