console.log(process.getuid(), process.getgid(), process.getgroups(), process.umask().toString(8));
const fs = require('fs');
// Not SigQ: signals that wait are counted for all processes of a user, in other sandboxes too.
console.log(fs.readFileSync('/proc/self/status', 'utf8').split('\n').filter((line) => /^(Cap|NoNew|Uid|Gid|Groups|Sig[PBIC]|Shd)/.test(line)).join('\n'));
console.log(fs.readFileSync('/proc/self/limits', 'utf8'), fs.readFileSync('/proc/self/oom_score_adj', 'utf8'));
