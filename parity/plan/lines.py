"""The lines between rounding and a bug: each with its value, its unit, and where the value comes from.

What was seen on either side of them: docs/explanation/how-a-verdict-is-reached.md.

`u` is the unit roundoff of the dtype in question (2**-24 for float32).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A number that a decision depends on.

    Attributes:
        value: The number.
        unit: "u", "relative", "times the baseline's error", and so on.
        meaning: What the number limits.
        source: Where the value comes from: a publication, or what was measured on either side of it.
    """

    value: float
    unit: str
    meaning: str
    source: str


def is_narrow(unit: float) -> bool:
    """Whether a dtype with this u is narrow, as float16 and bfloat16 are."""
    return unit >= NARROW.value


# Losses, audited on the same output and target


GRADIENT = Line(
    16.0,
    "times the baseline's error",
    "largest error of an output gradient that rounding can explain",
    "Right gradients of MSE were seen at 0.4 to 1.4 u, right cross-entropies at up to 6 times the baseline's error; "
    "the least wrong gradient (1.00001 times too large) at 168 u. 16 is a tenth of it.",
)
UNSTEADY_GRADIENT = Line(
    8.0,
    "times the baseline's error",
    "the same where the baseline's replicas disagree",
    "The baseline's error is the noise floor there, and a gradient that is 10 times off the floor must be seen.",
)
LEAST_ERROR = Line(
    1.0,
    "u",
    "least error that a baseline is credited with",
    "A correctly rounded result may be off by 1 u in each element; a baseline that happens to be exact at one step "
    "must not condemn plain rounding.",
)
WINDOW = Line(
    10.0,
    "steps",
    "how far before and after a step the baseline's errors count for its line",
    "Chosen. On well-separated classes a baseline's own error of the loss was seen to vary by 50 times within 10 steps "
    "(54 u to 2,500 u), so that a line made from one step is a matter of luck.",
)
WINDOW_RANK = Line(
    3.0,
    "rank",
    "which of the baseline's errors in the window counts, from the largest on",
    "Chosen: two steps at which the gradient is all but zero, where its relative error is huge, excuse none of their "
    "neighbours.",
)
CONDITION = Line(
    8.0,
    "u",
    "most that the condition of a gradient is credited with",
    "As `CONTRACT_CONDITION`: 16 times it, 128 u, is less than the 168 u of a factor of 1.00001.",
)
RATIO = Line(
    4.0,
    "u",
    "largest distance of grad_ratio from 1 that correct rounding of constants can explain, in a narrow dtype",
    "A factor that is rounded, such as 2/N or grad_output, moves all elements alike, by 1 u at most; 4 allows as many. "
    "Measured on the corpus cast to bfloat16 and float16 (8, 96 and 256 rows, after 0, 100 and 1,200 steps): right "
    "losses at 0.85 u at most where the noise of the elements is averaged out, 2.0 u on 8 rows; of the wrong ones "
    "that differ in this dtype 4.7 u and more.",
)
NARROW = Line(
    2.0**-12,
    "relative",
    "u from which on a dtype is narrow, so that the ratio is looked at beside the error",
    "float16 has a u of 2**-11, where 16 u is 0.8 %; that of float32 is 2**-24, where 16 u is 1e-6.",
)
PASSED_ON = Line(
    4.0,
    "u",
    "most of a gradient beyond its line that may reach the parameters, beside their whole gradient",
    "Measured in float32: of cross-entropy and the negative log-likelihood on a model that ends in log_softmax, which "
    "differ by 1e7 u, 0.3 to 1.2 u reach the parameters, all of it rounding; of some 60 wrong gradients of the "
    "corpus 168 u (a factor of 1.00001) and more, at least 0.27 % of the gradient's own error (rows in another order).",
)
OFF_ORACLE = Line(
    1000.0,
    "u",
    "own error from which on a baseline is not what it is audited against",
    "Measured in float32: the corpus's baselines are off by 0.4 to 4 u. Beyond 1,000 u were seen only well-separated "
    "classes (20,300 u at most, where the loss is below 1e-3), which begin at 0.8 u and whose error is not a factor.",
)
OFF_ORACLE_MOST = Line(
    0.01,
    "relative",
    "own error of a baseline's gradient from which on a step is evidence of nothing, whatever the reason",
    "Chosen: 16 times it is 16 %. Right baselines were seen at 0.12 % at most (well-separated classes, loss of 4e-5).",
)
OFF_ORACLE_SHARE = Line(
    0.5,
    "share of the error",
    "share of the baseline's error that is a factor, from which on it is one",
    "A gradient that is c times the right one has a share of 1, whatever c is. On well-separated classes, 200 steps, 3 "
    "seeds, the shares were 0.36 at most at single steps and 0.1 in the median.",
)
LOSS_PER_ROOT = Line(
    64.0,
    "u per square root of the output's elements",
    "largest error of a loss that an order of summation can explain",
    "The order of summation moves a loss of N elements by some sqrt(N) u (N. J. Higham and T. Mary, A New Approach to "
    "Probabilistic Rounding Error Analysis, 2019). In the first epoch of the reference experiment, in float32, "
    "sequential sums were seen at up to 13 sqrt(N) u, sums from the largest element to the smallest at up to 21.",
)

# Devices, on steps from one state


DEVICE = Line(
    8.0,
    "times the baseline's error",
    "largest error of a tensor of a shared step that rounding can explain",
    "Threads, instruction sets and BLAS variants of a CPU were seen at 1.3 times at most, matrix products in TF32 at "
    "60 times and more.",
)
SUSPICIOUS_DEVICE = Line(
    4.0,
    "times the baseline's error",
    "error from which on the causes of a device's error are looked for",
    "Half of the line of devices, so that every tensor beyond that line has been looked into.",
)
OFF = Line(
    1000.0,
    "times what rounding explains",
    "error of a baseline from which on it does not compute what was taken in float64",
    "Right steps, and steps whose output is as far off, were seen at 20 times at most; a loss divided by 4 at 1e7 "
    "times, an L2 term of 1e-2 that the criterion lacks at 1e5 times.",
)
STRANGE = Line(
    6e-3,
    "relative",
    "largest distance of an output from its float64 step that can still be the same step",
    "The largest error of a float32 output that was seen in the same step is 4.3e-3, with products in bfloat16. "
    "In another step the error is about as large as the output itself.",
)
STRANGE_U = Line(
    64.0,
    "u",
    "the same for outputs of narrow dtypes, whichever of the two is larger",
    "Chosen: 0.25 in bfloat16, between its rounding in a deep model and the output itself.",
)

# Runs of different days


NORM_ERROR = Line(
    1000.0,
    "u",
    "largest error of a norm that is summed in the dtype itself",
    "Measured on 20 random tensors of 200,704 float32 elements, an output gradient of the reference experiment: up to "
    "12 u for a dot product (which is what the observer takes), 32 u for torch.linalg.vector_norm, 497 u for a "
    "sequential sum. Twice the worst.",
)
CHANGED_NORM = Line(
    1e-4,
    "relative",
    "distance of two gradients' norms from which on they are norms of different gradients",
    "A norm in float32 may be off by `NORM_ERROR`, which is 6e-5; the next power of ten above it.",
)
SAME_FUNCTION = Line(
    1e-10,
    "relative",
    "largest distance in float64, of all tensors of a quantity, of first steps that compute the same function",
    "Right implementations were seen at 4e-13 at most; tanh for erf in GELU, an attention scale off by 1.001, decay of "
    "the wrong parameters and eps inside the root at 2e-7 to 9e-6.",
)
ROUNDED_CONSTANT = Line(
    2.0**-24,
    "relative",
    "largest distance of such steps that a constant explains which one of them rounds to float32",
    "The unit roundoff of float32: a scale that is computed in float32 is off by as much. No wrong function was seen "
    "below 2e-7.",
)
SAME_NORM_OF_FUNCTION = Line(
    1e-5,
    "relative",
    "largest distance, beside the whole, of norms in float64 of the first step that computes the same function",
    "For initial parameters that are not equal to the bit. Measured on the reference experiment, 5 seeds, each initial "
    "parameter moved to a neighbouring float32: norms move by 4e-7 at most (a parameter gradient; output and output "
    "gradient by 2e-10). 25 times that. A function that differs by less is not seen here.",
)
SAME_NORMS = Line(
    1e-6,
    "relative",
    "largest distance of the norms of initial parameters that are the same but for their last bits",
    "Parameters that each differ by one neighbouring number have norms that differ by 2 u at most, 1.2e-7 in float32 "
    "(measured on the reference experiment: 1.0e-7). 8 times that.",
)

SAME_SETTING = Line(
    1e-6,
    "relative",
    "largest distance of two settings of an optimizer that are the same number",
    "A rate that is kept as a float32 tensor is off by 6e-8 at most; rates that are meant to differ, differ by more.",
)

# Two runs where they part from equal bits, and after that

PARTING_OUTPUT = Line(
    256.0,
    "u",
    "largest distance of outputs of equal parameters and inputs that rounding can explain without a float64 step",
    "Right pairs were seen at 0.4 to 20 u (threads, channels_last, compiled, attention), wrong ones at 6e-3 and more.",
)
PARTING_OUTPUT_GRAD = Line(
    64.0,
    "u",
    "largest distance of output gradients of equal outputs that rounding can explain without an audit",
    "Right losses were seen at 0.4 to 2 u, right cross-entropies at up to 20 u; 4 times `GRADIENT` at its least.",
)
PARTING_PARAM_GRAD = Line(
    512.0,
    "u",
    "largest distance of parameter gradients, beside all of them, that rounding can explain without a float64 step",
    "Right convolutions in channels_last were seen at 71 to 97 u from float64, so at up to 200 u from each other.",
)
PARTING_UPDATE = Line(
    256.0,
    "u",
    "largest distance of updates from equal gradients and states that rounding can explain, beside that of the sum",
    "An optimizer has a few operations for each element: fused, foreach and loop implementations were seen at 0 to "
    "4 u. A weight decay of the wrong group is at 5e-4 and more.",
)
PARTING_SUM = Line(
    16.0,
    "u of the parameter",
    "largest rounding of a parameter to which its update is added",
    "One rounding of each of two results is 2 u at most; 8 times that.",
)
PARTING_BUFFER = Line(
    256.0,
    "u",
    "largest distance of buffers that rounding can explain",
    "A running mean is a sum over a batch: right pairs were seen at 0 to 3 u, another momentum at 1e-2 and more.",
)
FAR = Line(
    1e-3,
    "relative",
    "distance of a parting quantity from which on no rounding explains it, whatever a float64 step says",
    "Right pairs part at 1e-7 to 1e-5; the bugs that were tried at 6e-3 to 2. In narrow dtypes at least `FAR_NARROW`.",
)
FAR_NARROW = Line(
    32.0,
    "u",
    "the same in units of rounding",
    "In bfloat16 32 u is 0.125: right attentions were seen at up to 3 u.",
)
JUMP = Line(
    30.0,
    "times the largest distance of the steps before",
    "jump of a distance that the growth of rounding explains",
    "Over all tensors, right pairs were seen at up to 8 where the distance was above `JUMP_FLOOR`; late faults at 700 "
    "and more.",
)
JUMP_STAYS = Line(
    10.0,
    "times the largest distance of the steps before",
    "the same for the gradient of the parameters, where it stays so far for three steps",
    "Half of a layer's gradient was seen at 15 in a convolutional net, in which a kink had moved the gradient of one "
    "step before; such a kink does not stay.",
)
JUMP_FLOOR = Line(
    3e-3,
    "relative",
    "distance below which a jump is not looked at",
    "A learning rate that is 1 % off moves the update by 1e-2, other late faults by more.",
)
JUMP_GRADIENT = Line(
    0.03,
    "relative",
    "the same for the gradient of the parameters, in which a kink of the model may show",
    "One unit of a ReLU that flips for one row of a batch moved the gradient of the classifier (256 rows) by 1.6e-4, "
    "340 times the distance before; in a convolutional net with 16 rows by 8e-3. Half of a layer's is at 0.1.",
)
JUMP_UPDATE = Line(
    1e-3,
    "relative",
    "the same for the update, while the gradients have been within `QUIET` of each other",
    "Adam makes 1e-6 to 1e-5 of gradients that are 1e-7 apart (the reference experiment), and was seen to make 3.7e-4 "
    "in a convolutional net with batch norm; a second beta of 0.99 for 0.999 moves the second update by 1.5e-3.",
)
JUMP_BUFFER = Line(
    1e-5,
    "relative",
    "the same for the buffers, while the gradients have been within `QUIET` of each other",
    "While gradients were near each other, the buffers of 100 right pairs (`benchmarks/late_faults.py`) were at 9e-5 "
    "at most and never beyond 4 times what they had been. An average whose decay changes from 0.99 to 0.999 after 8 "
    "steps was seen at 9.5e-5, after 5e-10.",
)
UPDATE_TURNS = Line(
    4.0,
    "times the square root of the distance of what it is made of",
    "distance of an update that signs flipped by rounding explain",
    "In an optimizer that takes signs (Lion), those flip that are within rounding of zero: a share of 0.8 times the "
    "distance if they are normally distributed, which is 1.8 times the square root. Seen at 0.2 to 1.2 times.",
)
UPDATE_AT_PARTING = Line(
    1.0,
    "relative",
    "distance of the update in the step in which two runs part that no rounding of what is before it explains",
    "Adam turns the signs of elements whose gradient is nearly zero; a quarter of all would be 1. One weight that was "
    "doubled before the step, of an autoencoder whose output it moves by 6e-4, was seen at 1.6.",
)
UPDATE_BESIDE_DRIFT = Line(
    3.0,
    "times the distance of all updates in the steps before",
    "distance of one tensor's update, beside all of them, up to which a unit that wakes up explains it",
    "In the reference experiment (seed 2, step 217) a unit of a ReLU that had been dead woke up a step earlier on one "
    "side: the update of its weights was off by 0.023 of all, after 6e-4, while all updates were 0.02 apart.",
)
UPDATE_OF_TENSOR = Line(
    0.5,
    "times the length of the tensor's update",
    "distance of one tensor's update from which on no unit that wakes up explains it",
    "Chosen: the unit above moved the update of its tensor by 0.08 of its length; that of a frozen tensor is off by 1.",
)
UNREACHED = Line(
    2.0,
    "times the largest distance of the steps before",
    "distance of the loss and of the gradient up to which another output has not reached them",
    "Chosen: the distance of rounding is that of the steps before, or less. In the step of the parting it is that of "
    "`PARTING_OUTPUT` and `PARTING_PARAM_GRAD`.",
)
SCALE_OF_BUFFER = Line(
    1e-3,
    "times the length of all buffers",
    "length that a buffer is taken to have at least where its distance is judged",
    "The mean of what a batch norm has centred is nothing but rounding, 1e-8 of its variance.",
)
QUIET = Line(
    1e-5,
    "relative",
    "distance of gradients that are still near each other",
    "Chosen: the right pairs begin at 1e-7, and reach it as they drift apart.",
)
JUMP_FOLLOWS = Line(
    3.0,
    "times",
    "largest ratio of the distance of the optimizer's gradient to that of backward's, where the latter jumps",
    "A gradient that is clipped is as far off as it was before.",
)
JUMP_UPDATE_FOLLOWS = Line(
    10.0,
    "times",
    "the same for the update, whose optimizer may divide a gradient by its size",
    "An update from a gradient that a kink has moved was seen as far off as the gradient, and at 3.1 times: one unit "
    "of a ReLU flipped for one row, and Adam divides the small gradient of that unit by its own size.",
)
NOISE = Line(
    1e-2,
    "relative",
    "distance of a gradient beside itself from which on it is nothing but rounding",
    "A bias before a batch norm, whose gradient is zero but for rounding, was seen at 0.3 to 2, other tensors below "
    "1e-3 until the runs have drifted apart.",
)
NOISE_LENGTH = Line(
    1e-2,
    "times the length of the whole gradient",
    "length of a gradient up to which it can be nothing but rounding",
    "Biases before a batch norm were seen at 1e-6 and at 1e-3.",
)
LENGTH = Line(
    10.0,
    "times the largest of the steps before",
    "jump of an update's length that the growth of rounding explains",
    "Over 100 right pairs of 1,000 steps (`benchmarks/late_faults.py`) the length was off by 0.24 at most, and by 2.7 "
    "times what it was before. One weight doubled in a classifier was off by 5.",
)
LENGTH_UPDATE = Line(
    0.3,
    "relative",
    "difference of the lengths of two updates below which a jump is not looked at",
    "As above. An update whose length is off by a third is a changed parameter, or a step taken twice or not at all.",
)
LENGTH_STAYS = Line(
    5.0,
    "times the largest of the steps before",
    "jump of a gradient's length that the growth of rounding explains, where it stays for three steps",
    "Half of a layer's gradient that has drifted 0.1 apart is but 3 times as far off as before, and 10 times as short.",
)
LENGTH_GRADIENT = Line(
    0.1,
    "relative",
    "difference of the lengths of two gradients below which a jump is not looked at",
    "Over the same right pairs it was off by 0.02 at most; half of a layer's gradient by 0.14 and more.",
)
JUMP_WINDOW = Line(
    20.0,
    "steps",
    "number of steps before a step whose largest distance its own is compared with",
    "DESIGN.md, section 7.",
)

# The loss contract, on a few rows


CONTRACT_ERROR = Line(
    16.0,
    "times the baseline's error",
    "largest error of a loss or gradient that the contract allows",
    "As `GRADIENT`. Measured on 8 rows of random outputs, in float32: the 74 right losses of the corpus were off by at "
    "most 2.3 times the baseline's error (by 1.9 in bfloat16, 1.6 in float16, 1.5 in float64), the wrong gradients by "
    "87 u (an epsilon added to the gradient), 168 u (a factor of 1.00001), 352 u and more, where this limit was 16 to "
    "23 u.",
)
CONTRACT_CONDITION = Line(
    8.0,
    "u",
    "most that the condition of the problem is credited with",
    "Chosen so that 16 times it, 128 u, is less than the 168 u of a factor of 1.00001. Measured on 8 rows: 0.4 to 1.5 "
    "u for random outputs, 3.5 u for cross-entropy at logits of 10 to 30.",
)
CONTRACT_REPEAT = Line(
    64.0,
    "times the baseline's error",
    "largest distance of two gradients of one loss",
    "Chosen: each of two evaluations may be off by 16 times the baseline's error, and may sum in another order. "
    "Measured on 8 rows: right losses of the corpus moved by at most 1.9 times between layouts of memory and between "
    "calls, losses that mix up layouts or calls by 6e6 times and more.",
)
CONTRACT_SUM = Line(
    64.0,
    "u per square root of the output's elements",
    "largest error of a sum in any order",
    "N. J. Higham and T. Mary, 2019, as `LOSS_PER_ROOT`. Measured on 8 rows: right losses of the corpus were off by at "
    "most 0.6 sqrt(N) u in float32 and 2.4 in float64 (a sequential sum), the wrong ones by 1.9e5 sqrt(N) u and more.",
)
SECOND_DERIVATIVE = Line(
    1e-3,
    "relative",
    "largest distance of two Hessian products of the same loss",
    "Measured on 8 rows in float32: the products of 67 right losses of the corpus differed from the baseline's by at "
    "most 9.1e-6, those of losses with a wrong element or a missing term by 3.3e-2 and more. A detour through float16 "
    "(2.9e-4) and a factor of 1.00001 stay below: the first derivative shows those.",
)

# The diagnosis of a wrong gradient


SUSPICIOUS_GRADIENT = Line(
    8.0,
    "times the baseline's error",
    "error from which on a gradient is looked into",
    "Half of the line of gradients, so that every gradient beyond that line has been looked into.",
)
RULE_FIT = Line(
    64.0,
    "times the baseline's error",
    "most that a rule may leave of a gradient that it fits",
    "Chosen: a rule evaluates the gradient once more, in other operations, and so may leave several times the rounding "
    "of one. Measured on 96 rows of the corpus: the rules left at most 1.1 times the baseline's error of the 31 "
    "scaled or permuted gradients; a factor left 3,580 times it and more of gradients with another fault.",
)
OTHER_LOSS_FIT = Line(
    1e-4,
    "relative",
    "most that another loss may leave of a gradient that it explains",
    "Measured on 96 rows of the corpus: the loss that was meant left at most 9.2e-8 of 13 gradients; the nearest loss "
    "left 1.1e-3 of a gradient rounded at random, 5.5e-3 of one with a wrong element, 1.8e-2 and more of others. (One "
    "with a wrong factor in each row is a multiple of another loss's, and its factor has no name.)",
)
OFFSET_FIT = Line(
    1e-3,
    "share of the error",
    "most that an offset may leave of the error that it explains",
    "Measured on 96 rows of the corpus: the 4 offsets left 1.5e-5 to 1.7e-4, all of it rounding; the best offset left "
    "0.69 and more of any other error.",
)
PRECISION_FIT = Line(
    0.05,
    "share of the error",
    "most that a lower precision may leave of the error that it explains",
    "Measured on 96 rows of the corpus: the precision that 7 losses were computed in, emulated in software, left 7e-5 "
    "and less; the best precision left 0.989 and more of any other error.",
)
SAME_FACTOR = Line(
    1e-6,
    "relative",
    "largest distance of factors that are one factor, and of a factor of 1 from 1",
    "Measured on 96 rows of the corpus: known factors (-1, 2, 96, 255, 784, 1/960 and so on) were found to within "
    "5e-8; the one nearest to 1 is 1.00001.",
)
CONSTANT_FIT = Line(
    1e-3,
    "relative",
    "largest distance of a factor from the constant that it is named after",
    "Chosen between the accuracy of a factor (`SAME_FACTOR`) and the 4e-3 between the two nearest constants that are "
    "named, 255 and a batch size of 256.",
)
RIGHT_SHARE = Line(
    0.05,
    "share of the steps",
    "most steps that may be right after the step from which on a gradient is wrong",
    "Chosen, not measured: one step in twenty, such as a partial batch that hides the fault, may be right by chance.",
)

# Replicas that disagree


TEST_LEVEL = Line(
    0.05,
    "probability",
    "level of the permutation test of replicas",
    "The convention; 4 + 4 replicas can reach 0.029.",
)
SAME_LOSS = Line(
    2.0**-20,
    "relative",
    "largest distance of losses that are the same number, rounded otherwise",
    "8 ulp of a float32 near 1. Without it the test is right but not useful: a reported loss that rounds otherwise, "
    "always alike, was rejected in 9 of 10 cases at a floor of 5e-8.",
)
