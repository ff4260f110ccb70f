// Runs one of the plug-ins of docs/samples/plug-in-http, as Dataverse does. Arguments: "start", the object ID of the user
// and the ID of the request; or "read", the object ID and the gateway's ID. The token comes from the variable
// WORKER_TOKEN. Prints each output parameter as "Name value", or "refused <message>" and the error.

using System;
using System.Collections.Generic;
using Microsoft.Xrm.Sdk;

public sealed class GatewayPlugInHost : IServiceProvider, IPluginExecutionContext2, IManagedIdentityService
{
    public Guid CorrelationId { get; } = Guid.NewGuid();
    public ParameterCollection InputParameters { get; } = new ParameterCollection();
    public ParameterCollection OutputParameters { get; } = new ParameterCollection();
    public Guid InitiatingUserAzureActiveDirectoryObjectId { get; private set; }

    public object GetService(Type serviceType)
    {
        return serviceType.IsInstanceOfType(this) ? this : null;
    }

    public string AcquireToken(IEnumerable<string> scopes)
    {
        return Environment.GetEnvironmentVariable("WORKER_TOKEN");
    }

    public string AcquireToken(Guid managedIdentityId, IEnumerable<string> scopes)
    {
        throw new NotSupportedException();
    }

    public static void Main(string[] arguments)
    {
        var starts = arguments[0] == "start";
        var host = new GatewayPlugInHost { InitiatingUserAzureActiveDirectoryObjectId = Guid.Parse(arguments[1]) };
        if (starts)
        {
            host.InputParameters["RequestId"] = Guid.Parse(arguments[2]);
            host.InputParameters["Customer"] = "Contoso";
            host.InputParameters["Amount"] = 12.5m;
        }
        else
        {
            host.InputParameters["GatewayRequest"] = arguments[2];
        }
        try
        {
            (starts ? (IPlugin)new StartQuote() : new ReadQuote()).Execute(host);
            foreach (var name in starts ? new[] { "GatewayRequest" } : new[] { "Status", "Quote", "ErrorCode" })
                Console.WriteLine(name + " " + host.OutputParameters[name]);
        }
        catch (InvalidPluginExecutionException error)
        {
            Console.WriteLine("refused " + error.Message);
            Console.WriteLine(error);
        }
    }
}
