// Node's globals that @azure/service-bus uses.
export { Buffer } from "buffer";
export { default as process } from "process/browser.js";
