import warnings
warnings.simplefilter("always")
file = open("/tmp/unclosed", "w")
file.write("text")
