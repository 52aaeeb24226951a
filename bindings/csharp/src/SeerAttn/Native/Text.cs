using System;
using System.Text;

namespace SeerAttn.Native
{
    // UTF-8 strings to and from the library.
    internal static unsafe class Text
    {
        private static readonly UTF8Encoding Strict = new UTF8Encoding(false, true);

        // With a terminating NUL.
        public static byte[] Encode(string value, string parameter)
        {
            if (value == null) throw new ArgumentNullException(parameter);
            if (value.IndexOf('\0') >= 0) throw new ArgumentException("The text contains a NUL character.", parameter);
            byte[] bytes = new byte[Strict.GetByteCount(value) + 1];
            Strict.GetBytes(value, 0, value.Length, bytes, 0);
            return bytes;
        }

        public static string Decode(byte* text)
        {
            if (text == null) return "";
            int length = 0;
            while (text[length] != 0) length++;
            return Decode(text, length);
        }

        public static string Decode(byte* text, int length)
        {
            return length == 0 ? "" : Encoding.UTF8.GetString(text, length);
        }

        // Of a fixed array, which need not be terminated.
        public static string DecodeArray(byte* text, int capacity)
        {
            int length = 0;
            while (length < capacity && text[length] != 0) length++;
            return Decode(text, length);
        }
    }
}
