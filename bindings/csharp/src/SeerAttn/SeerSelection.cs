using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>How blocks are chosen. The default value leaves it to the model. A row that would keep nothing keeps
    /// its diagonal block.</summary>
    public struct SeerSelection
    {
        /// <summary>Which of the numbers below counts.</summary>
        public SeerSelectMethod Method { get; set; }

        /// <summary>Block rows at the end that keep everything: 0 the model's (2 without a model), -1 none.</summary>
        public int LastDenseRows { get; set; }

        /// <summary>0 to 1; 5e-4 to 5e-3 is usual at 32k to 128k tokens.</summary>
        public double Threshold { get; set; }

        /// <summary>Above 0, up to 1: per row the best max(1, floor((1 - sqrt(1 - r)) nK)) blocks.</summary>
        public double Ratio { get; set; }

        /// <summary>Per row the best max(1, budget / block) blocks.</summary>
        public long TokenBudget { get; set; }

        /// <summary>Always keep each row's own block.</summary>
        public bool KeepDiagonal { get; set; }

        /// <summary>Always keep key block 0, where attention sinks are.</summary>
        public bool KeepFirst { get; set; }

        /// <summary>Blocks of gate probability above <paramref name="threshold"/>.</summary>
        public static SeerSelection ByThreshold(double threshold)
        {
            return new SeerSelection { Method = SeerSelectMethod.Threshold, Threshold = threshold };
        }

        /// <summary>A share of the causal triangle.</summary>
        public static SeerSelection ByRatio(double ratio)
        {
            return new SeerSelection { Method = SeerSelectMethod.Ratio, Ratio = ratio };
        }

        /// <summary>A number of tokens per row.</summary>
        public static SeerSelection ByBudget(long tokens)
        {
            return new SeerSelection { Method = SeerSelectMethod.Budget, TokenBudget = tokens };
        }

        /// <summary>Every causal block: dense attention through the sparse path.</summary>
        public static SeerSelection All => new SeerSelection { Method = SeerSelectMethod.All };

        internal SeerSelection(in seer_select_spec native)
        {
            Method = native.method;
            LastDenseRows = native.last_dense_rows;
            Threshold = native.threshold;
            Ratio = native.ratio;
            TokenBudget = native.token_budget;
            KeepDiagonal = (native.flags & Constants.SEER_SELECT_KEEP_DIAGONAL) != 0;
            KeepFirst = (native.flags & Constants.SEER_SELECT_KEEP_FIRST) != 0;
        }

        internal seer_select_spec ToNative()
        {
            seer_select_spec native = default(seer_select_spec);
            native.method = Method;
            native.last_dense_rows = LastDenseRows;
            native.threshold = Threshold;
            native.ratio = Ratio;
            native.token_budget = TokenBudget;
            if (KeepDiagonal) native.flags |= Constants.SEER_SELECT_KEEP_DIAGONAL;
            if (KeepFirst) native.flags |= Constants.SEER_SELECT_KEEP_FIRST;
            return native;
        }
    }
}
