import http from 'node:http';
const server = http.createServer((request, response) => response.end('served'));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
console.log(await (await fetch(`http://127.0.0.1:${server.address().port}`)).text());
server.close();
