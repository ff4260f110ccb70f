// Makes reply keys, and checks that a worker made a result for the request with such a key. For .NET Framework and .NET.
//
// Send a new key with each request, in the application property "reply_key". Check the message before you parse it, and
// ignore it if the check fails: any sender can post a message that looks like your result.

using System;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;

public static class ReplyKey
{
    /// <summary>Return a random key: 256 bits as base64url.</summary>
    public static string New()
    {
        var bytes = new byte[32];
        using (var random = RandomNumberGenerator.Create()) random.GetBytes(bytes);
        return Convert.ToBase64String(bytes).TrimEnd('=').Replace('+', '-').Replace('/', '_');
    }

    /// <summary>Return whether a text has the form of a key.</summary>
    public static bool IsValid(string key)
    {
        return key != null && Regex.IsMatch(key, @"\A[A-Za-z0-9_-]{22,128}\z");
    }

    /// <summary>Return whether a worker made this result. The arguments are the request's key, the result's body and
    /// message ID, and its application properties "contract" and "reply_mac".</summary>
    public static bool IsAuthentic(string key, byte[] body, string messageId, string contract, string mac)
    {
        if (contract == null || mac == null || !Regex.IsMatch(contract, @"\Aflow-result/[0-9]+\z")) return false;
        var head = Encoding.UTF8.GetBytes(contract + "\n" + messageId + "\n");
        var text = new byte[head.Length + body.Length];
        head.CopyTo(text, 0);
        body.CopyTo(text, head.Length);
        using (var hmac = new HMACSHA256(Encoding.ASCII.GetBytes(key)))
        {
            var expected = BitConverter.ToString(hmac.ComputeHash(text)).Replace("-", "").ToLowerInvariant();
            return AreEqual(expected, mac);
        }
    }

    private static bool AreEqual(string expected, string found)
    {
        if (expected.Length != found.Length) return false;
        var difference = 0; // every character is compared, so that the time tells nothing
        for (var i = 0; i < expected.Length; i++) difference |= expected[i] ^ found[i];
        return difference == 0;
    }
}
