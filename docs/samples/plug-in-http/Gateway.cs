// Calls the HTTP gateway with the plug-in's managed identity. An answer that is no success ends the operation.

using System;
using System.IO;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using Microsoft.Xrm.Sdk;

internal static class Gateway
{
    private const string Url = "https://flows.contoso.com";
    private const string WorkerScope = "api://66666666-7777-8888-9999-000000000000/.default";

    public static T Call<T>(IServiceProvider services, HttpMethod method, string path, Action<HttpRequestMessage> fill)
    {
        var identity = (IManagedIdentityService)services.GetService(typeof(IManagedIdentityService));
        using (var client = new HttpClient { Timeout = TimeSpan.FromSeconds(14) }) // the sandbox allows 15
        using (var request = new HttpRequestMessage(method, Url + path))
        {
            request.Headers.Authorization =
                new AuthenticationHeaderValue("Bearer", identity.AcquireToken(new[] { WorkerScope }));
            request.Headers.ConnectionClose = true;
            fill(request);
            using (var response = Send(client, request))
            {
                var body = response.Content.ReadAsByteArrayAsync().GetAwaiter().GetResult();
                if (response.IsSuccessStatusCode) return Read<T>(body);
                throw new InvalidPluginExecutionException(
                    $"The gateway answered {(int)response.StatusCode}: {Code(body)}.");
            }
        }
    }

    /// <summary>The object ID of the calling user. The platform proves it; a parameter could name anybody.</summary>
    public static Guid CallingUser(IPluginExecutionContext2 context)
    {
        var user = context.InitiatingUserAzureActiveDirectoryObjectId;
        if (user == Guid.Empty) throw new InvalidPluginExecutionException("The caller has no Entra object ID.");
        return user;
    }

    public static StringContent Json<T>(T value)
    {
        using (var stream = new MemoryStream())
        {
            new DataContractJsonSerializer(typeof(T)).WriteObject(stream, value);
            return new StringContent(Encoding.UTF8.GetString(stream.ToArray()), Encoding.UTF8, "application/json");
        }
    }

    private static T Read<T>(byte[] body)
    {
        using (var stream = new MemoryStream(body)) return (T)new DataContractJsonSerializer(typeof(T)).ReadObject(stream);
    }

    private static string Code(byte[] body)
    {
        try
        {
            return Read<Problem>(body).Code;
        }
        catch (SerializationException) // the page of a proxy
        {
            return "no problem document";
        }
    }

    private static HttpResponseMessage Send(HttpClient client, HttpRequestMessage request)
    {
        try
        {
            return client.SendAsync(request).GetAwaiter().GetResult();
        }
        catch (HttpRequestException error)
        {
            throw new InvalidPluginExecutionException("The gateway could not be reached.", error);
        }
        catch (OperationCanceledException error) // the timeout
        {
            throw new InvalidPluginExecutionException("The gateway did not answer in time.", error);
        }
    }

    [DataContract]
    private sealed class Problem
    {
        [DataMember(Name = "code")] public string Code { get; set; }
    }
}
