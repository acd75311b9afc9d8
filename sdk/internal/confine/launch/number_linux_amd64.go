package launch

const sysExecveat = 322
