console.log('grüße 你好 🎉');
