// Runs the checks that a module exports, several at a time, and prints each result as a line of JSON.
// `node run.mjs MODULE [NAME…]`. Each check gets the ready line of the emulator (environment variable EMULATOR) and the
// name of its queue, which is the name of the check.
const SECONDS = 45;
const CONCURRENCY = 16;

const [module, ...names] = process.argv.slice(2);
const checks = Object.entries(await import(module)).filter(([name]) => names.length === 0 || names.includes(name));
const emulator = JSON.parse(process.env.EMULATOR);

await Promise.all([...Array(CONCURRENCY)].map(work));
process.exit(0); // a failed check may leave connections open

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
  const late = new Promise((_, reject) => setTimeout(reject, SECONDS * 1000, new Error(`did not end in ${SECONDS} s`)));
  return Promise.race([promise, late]);
}
