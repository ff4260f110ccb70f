// The plug-in of the Custom API new_StartQuote. It returns the correlation ID of the operation, and does nothing else.
//
// The service endpoint of the step on new_StartQuote posts the same correlation ID, and the worker writes it into the
// row of the result. So the form finds its row.

using System;
using Microsoft.Xrm.Sdk;

public sealed class ReturnCorrelationId : IPlugin
{
    public void Execute(IServiceProvider services)
    {
        var context = (IPluginExecutionContext)services.GetService(typeof(IPluginExecutionContext));
        context.OutputParameters["CorrelationId"] = context.CorrelationId.ToString("D");
    }
}
