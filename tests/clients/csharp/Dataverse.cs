// Stand-ins for the types of Microsoft.Xrm.Sdk that the plug-ins in docs/samples use, with the members they use.
// The signatures are those of the reference, https://learn.microsoft.com/dotnet/api/microsoft.xrm.sdk.
// The real interfaces have more members. A plug-in calls the interfaces and does not implement them.

using System;
using System.Collections.Generic;

namespace Microsoft.Xrm.Sdk
{
    public interface IPlugin
    {
        void Execute(IServiceProvider serviceProvider);
    }

    public interface IExecutionContext
    {
        Guid CorrelationId { get; }
        ParameterCollection InputParameters { get; }
        ParameterCollection OutputParameters { get; }
    }

    public interface IPluginExecutionContext : IExecutionContext
    {
    }

    public interface IPluginExecutionContext2 : IPluginExecutionContext
    {
        Guid InitiatingUserAzureActiveDirectoryObjectId { get; }
    }

    public interface IManagedIdentityService
    {
        string AcquireToken(IEnumerable<string> scopes);
        string AcquireToken(Guid managedIdentityId, IEnumerable<string> scopes);
    }

    public abstract class DataCollection<TKey, TValue>
    {
        private readonly Dictionary<TKey, TValue> values = new Dictionary<TKey, TValue>();

        public virtual TValue this[TKey key]
        {
            get { return values[key]; }
            set { values[key] = value; }
        }
    }

    public class ParameterCollection : DataCollection<string, object>
    {
    }

    public sealed class InvalidPluginExecutionException : Exception
    {
        public InvalidPluginExecutionException(string message) : base(message) { }
        public InvalidPluginExecutionException(string message, Exception exception) : base(message, exception) { }
    }
}
