export const options = { bundle: true, platform: "browser", format: "iife", globalName: "QuoteForm", target: "es2022" };
