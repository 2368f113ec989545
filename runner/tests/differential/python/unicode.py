print("grüße 你好 🎉", "\u200d")
try:
    print("\ud800")
except UnicodeEncodeError as error:
    print(error)
