import json, os, socket, time

server, size, requests = os.environ["SERVER"], int(os.environ["BYTES"]), int(os.environ["REQUESTS"])


def proxy():
    one = socket.create_connection(("127.0.0.1", 8118))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def ask(one, request):
    """Sends a request and reads the head of its answer; what came beyond."""
    one.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = one.recv(65536)
        assert piece, answer
        answer += piece
    head, rest = answer.split(b"\r\n\r\n", 1)
    assert b" 200 " in head, answer
    return len(rest)


def tunnel():
    one = proxy()
    ask(one, f"CONNECT {server} HTTP/1.1\r\n\r\n".encode())
    return one


def latencies(connection, request):
    took = []
    for _ in range(requests):
        before = time.perf_counter_ns()
        ask(connection(), request)
        took.append((time.perf_counter_ns() - before) // 1000)
    return took


inner, whole = b"GET /0 HTTP/1.1\r\n\r\n", f"GET http://{server}/0 HTTP/1.1\r\n\r\n".encode()
kept, through = proxy(), tunnel()
latencies(lambda: through, inner)
found = {
    "connect": latencies(lambda: through, inner),
    "request": latencies(lambda: kept, whole),
    "fresh": latencies(proxy, whole),
}

buffer = bytearray(1 << 20)
before = time.perf_counter()
left = size - ask(through, f"GET /{size} HTTP/1.1\r\n\r\n".encode())
while left:
    left -= through.recv_into(buffer)
found["down_seconds"] = time.perf_counter() - before

before = time.perf_counter()
through.sendall(f"POST / HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
for _ in range(size >> 20):
    through.sendall(buffer)
ask(through, b"")
found["up_seconds"] = time.perf_counter() - before
print(json.dumps(found))
