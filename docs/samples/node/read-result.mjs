// Reads the result of a request that another program sent: node read-result.mjs MESSAGE_ID CORRELATION_ID [SECONDS]
// REPLY_KEY has the request's reply key. Without it nobody can tell a result of the worker from a forged one.
//
// The result leaves the queue and is printed as JSON. Exit status: 0 a result of any status; 1 none within the time;
// 2 wrong use.

import { FlowClient } from "../front-end/flows.mjs";
import { claim, connected } from "./connection.mjs";

const [messageId, correlationId, seconds = "30"] = process.argv.slice(2);
const replyKey = process.env.REPLY_KEY;
if (!messageId || !correlationId || !replyKey || !(Number(seconds) > 0)) {
  console.error("Use: REPLY_KEY=… node read-result.mjs MESSAGE_ID CORRELATION_ID [SECONDS]");
  process.exit(2);
}
const bus = connected();
try {
  const flows = new FlowClient({ bus, claim });
  const result = await flows.result({ messageId, correlationId, replyKey }, { timeout: Number(seconds) * 1000 });
  if (result === null) {
    console.error(`No result within ${seconds} s. It may still arrive.`);
    process.exitCode = 1;
  } else {
    console.log(JSON.stringify(result));
  }
  if (flows.ignored > 0) {
    console.error(`Messages ignored: ${flows.ignored}. Their MACs do not fit REPLY_KEY. Is it the key of this request?`);
  }
} finally {
  await bus.close();
}
