class Meta(type):
    def __getattribute__(cls, name):
        if name not in ("__class__", "__dict__"):
            print("asked for", name)
        return super().__getattribute__(name)

    def __instancecheck__(cls, item):
        print("instance check")
        return False


class Trap(metaclass=Meta):
    def __getattribute__(self, name):
        print("attribute", name)
        return super().__getattribute__(name)

    def __eq__(self, other):
        print("compared")
        return True

    def __hash__(self):
        return 1


trap = Trap()
