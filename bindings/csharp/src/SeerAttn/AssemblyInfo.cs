using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("SeerAttn.Tests")]
