using System;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>What a call has done.</summary>
    public readonly struct SeerStats
    {
        internal SeerStats(in seer_stats native)
        {
            BlocksKept = (long)native.blocks_kept;
            BlocksCausal = (long)native.blocks_causal;
            FallbackRows = (long)native.fallback_rows;
            WorkspaceBytes = (long)native.workspace_bytes;
            DeviceNanoseconds = (long)native.device_ns;
            GateNanoseconds = (long)native.gate_ns;
            AttendNanoseconds = (long)native.attend_ns;
        }

        /// <summary>Blocks kept, over batch, heads and rows, by calls that select.</summary>
        public long BlocksKept { get; }

        /// <summary>Blocks of the causal triangle.</summary>
        public long BlocksCausal { get; }

        /// <summary>Kept blocks over those of the causal triangle, 0 to 1; NaN of calls that do not select.</summary>
        public double Density => BlocksCausal == 0 ? double.NaN : (double)BlocksKept / BlocksCausal;

        /// <summary>Rows that would have kept nothing and kept their diagonal block.</summary>
        public long FallbackRows { get; }

        /// <summary>Workspace in use, in bytes.</summary>
        public long WorkspaceBytes { get; }

        /// <summary>Time of the whole call on the device; the stages need not add up to it.</summary>
        public long DeviceNanoseconds { get; }

        /// <summary>Time of pool, project, score and select.</summary>
        public long GateNanoseconds { get; }

        /// <summary>Time of attend.</summary>
        public long AttendNanoseconds { get; }

        /// <summary><see cref="DeviceNanoseconds"/> as a TimeSpan, to 100 ns.</summary>
        public TimeSpan DeviceTime => TimeSpan.FromTicks(DeviceNanoseconds / 100);
    }

    /// <summary>How far a call or a load is.</summary>
    public readonly struct SeerProgress
    {
        /// <summary>So many of so many.</summary>
        public SeerProgress(long done, long total)
        {
            Done = done;
            Total = total;
        }

        /// <summary>Units of work done; bytes when loading.</summary>
        public long Done { get; }

        /// <summary>All there are.</summary>
        public long Total { get; }
    }
}
