// A button that starts the flow "create-quote" and writes the quote into its bound column.
// The host calls the methods: https://learn.microsoft.com/power-apps/developer/component-framework/reference/control

import { createQuote } from "./create-quote";
import { IInputs, IOutputs } from "./generated/ManifestTypes";

export class QuoteButton implements ComponentFramework.StandardControl<IInputs, IOutputs> {
  private readonly button = document.createElement("button");
  private readonly state = document.createElement("span");
  private readonly stopped = new AbortController();
  private context!: ComponentFramework.Context<IInputs>;
  private notifyOutputChanged!: () => void;
  private quote?: string;

  public init(
    context: ComponentFramework.Context<IInputs>,
    notifyOutputChanged: () => void,
    _state: ComponentFramework.Dictionary,
    container: HTMLDivElement,
  ): void {
    this.context = context;
    this.notifyOutputChanged = notifyOutputChanged;
    this.button.type = "button";
    this.button.textContent = "Create quote";
    this.button.addEventListener("click", () => void this.start());
    this.state.setAttribute("role", "status"); // a screen reader reads the changes
    container.append(this.button, " ", this.state);
    this.updateView(context);
  }

  public updateView(context: ComponentFramework.Context<IInputs>): void {
    this.context = context;
    this.button.disabled = context.mode.isControlDisabled;
    this.quote ??= context.parameters.quote.raw ?? undefined;
  }

  public getOutputs(): IOutputs {
    return { quote: this.quote };
  }

  public destroy(): void {
    this.stopped.abort(); // the flow runs on; only this wait ends
  }

  private async start(): Promise<void> {
    const { customer, amount } = this.context.parameters;
    this.button.disabled = true;
    this.state.textContent = "The flow runs …";
    try {
      const { quote } = await createQuote(customer.raw ?? "", amount.raw ?? 0, this.stopped.signal);
      this.quote = quote;
      this.state.textContent = quote;
      this.notifyOutputChanged();
    } catch (error) {
      if (!this.stopped.signal.aborted) this.state.textContent = (error as Error).message;
    } finally {
      this.button.disabled = this.context.mode.isControlDisabled;
    }
  }
}
