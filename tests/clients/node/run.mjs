// Runs the checks that a module exports, some at a time, and prints what became of each as a line of JSON.
// `node run.mjs MODULE [NAME…]`; each check gets the running emulator's words (environment variable EMULATOR, what it
// prints after `ready`) and a queue named like the check.
const SECONDS = 20;
const AT_A_TIME = 16;

const [module, ...names] = process.argv.slice(2);
const checks = Object.entries(await import(module)).filter(([name]) => names.length === 0 || names.includes(name));
const emulator = JSON.parse(process.env.EMULATOR);

await Promise.all([...Array(AT_A_TIME)].map(work));
process.exit(0); // whatever a failed check left open

async function work() {
  for (let next = checks.shift(); next !== undefined; next = checks.shift()) await report(...next);
}

async function report(name, check) {
  let error = null;
  try {
    await within(check({ emulator, queue: name }));
  } catch (caught) {
    error = `${caught?.code ?? ""} ${caught?.stack ?? caught}`.trim();
  }
  console.log(JSON.stringify({ name, error }));
}

function within(promise) {
  const late = new Promise((_, reject) => setTimeout(reject, SECONDS * 1000, new Error(`no end in ${SECONDS} s`)));
  return Promise.race([promise, late]);
}
