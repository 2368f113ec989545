print("body of", __name__)
import main
print(main.__file__, main.__name__)
