import sys
print(input("prompt> "))
print(sys.stdin.read())
try:
    input()
except EOFError as error:
    print("eof", error)
