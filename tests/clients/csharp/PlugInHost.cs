// Runs the plug-in once, as Dataverse does. Arguments: the object ID of the user, the IDs of request and result, and the
// reply key. The tokens come from the variables BUS_TOKEN and WORKER_TOKEN. Prints "MessageId <id>", or
// "refused <message>" and the error.
// With "check" as the first argument: checks a result. Arguments: key, body in Base64, message ID, contract, MAC.

using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.Xrm.Sdk;

public sealed class Host : IServiceProvider, IPluginExecutionContext2, IManagedIdentityService
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
        var bus = scopes.Single() == "https://servicebus.azure.net/.default";
        return Environment.GetEnvironmentVariable(bus ? "BUS_TOKEN" : "WORKER_TOKEN");
    }

    public string AcquireToken(Guid managedIdentityId, IEnumerable<string> scopes)
    {
        throw new NotSupportedException();
    }

    public static void Main(string[] arguments)
    {
        if (arguments[0] == "check")
        {
            var body = Convert.FromBase64String(arguments[2]);
            Console.WriteLine(ReplyKey.IsAuthentic(arguments[1], body, arguments[3], arguments[4], arguments[5]));
            Console.WriteLine(ReplyKey.New());
            return;
        }
        var host = new Host { InitiatingUserAzureActiveDirectoryObjectId = Guid.Parse(arguments[0]) };
        host.InputParameters["RequestId"] = Guid.Parse(arguments[1]);
        host.InputParameters["ResultId"] = Guid.Parse(arguments[2]);
        host.InputParameters["ReplyKey"] = arguments[3];
        host.InputParameters["Customer"] = "Contoso";
        host.InputParameters["Amount"] = 12.5m;
        try
        {
            new StartQuote().Execute(host);
            Console.WriteLine("MessageId " + host.OutputParameters["MessageId"]);
        }
        catch (InvalidPluginExecutionException error)
        {
            Console.WriteLine("refused " + error.Message);
            Console.WriteLine(error);
        }
    }
}
