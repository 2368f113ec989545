import socket
left, right = socket.socketpair()
left.send(b"x")
print(right.recv(1), socket.AF_INET, socket.gethostbyname("localhost"))
