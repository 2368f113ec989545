import locale
import sys
print(locale.getlocale(), locale.getpreferredencoding(), locale.setlocale(locale.LC_CTYPE))
print(sys.stdout.encoding, sys.stdout.errors, sys.stdin.errors, sys.stderr.errors)
