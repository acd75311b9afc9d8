package launch

const sysExecveat = 281
