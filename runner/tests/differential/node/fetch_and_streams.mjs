const body = await new Response('streamed').text();
console.log(body, new URL('x', 'http://h/').href, structuredClone({ a: 1 }), crypto.randomUUID().length);
