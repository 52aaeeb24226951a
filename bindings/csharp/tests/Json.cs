using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace SeerAttn.Tests
{
    // A small JSON reader, since Mono has none: objects are dictionaries, arrays are lists, numbers are doubles or,
    // where they have neither point nor exponent, decimals.
    internal sealed class Json
    {
        private readonly string text;
        private int at;

        private Json(string text) { this.text = text; }

        public static Dictionary<string, object> Parse(string text)
        {
            return (Dictionary<string, object>)new Json(text).Value();
        }

        private char Next()
        {
            while (char.IsWhiteSpace(text[at])) at++;
            return text[at];
        }

        private void Take(char c)
        {
            if (Next() != c) throw new FormatException("expected " + c + " at " + at);
            at++;
        }

        private object Value()
        {
            switch (Next())
            {
                case '{': return Object();
                case '[': return Array();
                case '"': return String();
                case 't': at += 4; return true;
                case 'f': at += 5; return false;
                case 'n': at += 4; return null;
                default: return Number();
            }
        }

        private Dictionary<string, object> Object()
        {
            var members = new Dictionary<string, object>();
            Take('{');
            while (Next() != '}')
            {
                if (members.Count > 0) Take(',');
                Next();
                string key = String();
                Take(':');
                members.Add(key, Value());
            }
            at++;
            return members;
        }

        private List<object> Array()
        {
            var items = new List<object>();
            Take('[');
            while (Next() != ']')
            {
                if (items.Count > 0) Take(',');
                items.Add(Value());
            }
            at++;
            return items;
        }

        private string String()
        {
            var result = new StringBuilder();
            Take('"');
            while (text[at] != '"')
            {
                char c = text[at++];
                if (c == '\\')
                {
                    c = text[at++];
                    if (c == 'u')
                    {
                        c = (char)int.Parse(text.Substring(at, 4), NumberStyles.HexNumber,
                            CultureInfo.InvariantCulture);
                        at += 4;
                    }
                    else if (c == 'n') c = '\n';
                    else if (c == 't') c = '\t';
                }
                result.Append(c);
            }
            at++;
            return result.ToString();
        }

        private object Number()
        {
            int start = at;
            while (at < text.Length && "+-.eE0123456789".IndexOf(text[at]) >= 0) at++;
            string number = text.Substring(start, at - start);
            if (number.IndexOfAny(new[] { '.', 'e', 'E' }) >= 0) return double.Parse(number,
                CultureInfo.InvariantCulture);
            return decimal.Parse(number, CultureInfo.InvariantCulture);
        }
    }
}
