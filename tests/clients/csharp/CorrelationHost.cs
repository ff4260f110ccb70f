// Runs docs/samples/model-driven/ReturnCorrelationId.cs once, and prints whether it returned the operation's ID.

using System;
using Microsoft.Xrm.Sdk;

public sealed class CorrelationHost : IServiceProvider, IPluginExecutionContext
{
    public Guid CorrelationId { get; } = Guid.NewGuid();
    public ParameterCollection InputParameters { get; } = new ParameterCollection();
    public ParameterCollection OutputParameters { get; } = new ParameterCollection();

    public object GetService(Type serviceType)
    {
        return serviceType.IsInstanceOfType(this) ? this : null;
    }

    public static void Main()
    {
        var host = new CorrelationHost();
        new ReturnCorrelationId().Execute(host);
        Console.WriteLine(host.CorrelationId.ToString().Equals(host.OutputParameters["CorrelationId"]));
    }
}
