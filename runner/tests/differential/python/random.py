import random
import secrets
import uuid
print(len({random.random() for _ in range(100)}), len(secrets.token_hex()), uuid.uuid4().version)
random.seed(5)
print(random.random())
