"""Counters and latency histograms in C: see ``meters.pxd`` for the layout and the error bound."""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from *:
    """
    static inline int copyd_top_bit(unsigned long long value) { return 63 - __builtin_clzll(value); }
    """
    int copyd_top_bit(unsigned long long value) noexcept nogil

cdef int64_t INT64_TOP = 0x7FFFFFFFFFFFFFFF


cdef inline int64_t bucket_of(int64_t ns) noexcept nogil:
    """Index of the bucket that holds ns >= 0."""
    cdef int shift
    if ns < 128:
        return ns
    shift = copyd_top_bit(<uint64_t>ns) - (LINEAR_BITS - 1)
    return shift * HALF + (ns >> shift)


cdef inline int64_t low_of(int64_t bucket) noexcept nogil:
    """Smallest value of a bucket."""
    cdef int64_t shift
    if bucket < 128:
        return bucket
    shift = (bucket >> 6) - 1
    return (bucket - shift * HALF) << shift


cdef inline int64_t high_of(int64_t bucket) noexcept nogil:
    """Largest value of a bucket."""
    if bucket < 128:
        return bucket
    return low_of(bucket) + ((<int64_t>1) << ((bucket >> 6) - 1)) - 1


@cython.final
cdef class Histogram:
    """Latencies in ns. Negative values (a clock set back) count as 0."""

    def __cinit__(self):
        memset(self.counts, 0, sizeof(self.counts))
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0
        self.min_ns = 0

    cdef void record(self, int64_t ns) noexcept nogil:
        # The same as record_many with n = 1, without its division.
        if ns < 0:
            ns = 0
        self.counts[bucket_of(ns)] += 1
        if self.count == 0 or ns < self.min_ns:
            self.min_ns = ns
        if ns > self.max_ns:
            self.max_ns = ns
        self.count += 1
        if self.total_ns > INT64_TOP - ns:
            self.total_ns = INT64_TOP
        else:
            self.total_ns += ns

    @cython.cdivision(True)  # both operands are positive: C division is floor division
    cdef void record_many(self, int64_t ns, int64_t n) noexcept nogil:
        if n <= 0:
            return
        if ns < 0:
            ns = 0
        self.counts[bucket_of(ns)] += n
        if self.count == 0 or ns < self.min_ns:
            self.min_ns = ns
        if ns > self.max_ns:
            self.max_ns = ns
        self.count += n
        if ns != 0 and n > (INT64_TOP - self.total_ns) // ns:
            self.total_ns = INT64_TOP
        else:
            self.total_ns += ns * n

    def record_ns(self, int64_t ns):
        """Records one value."""
        self.record(ns)

    def record_ns_many(self, int64_t ns, int64_t n):
        """Records one value n times."""
        if n < 0:
            raise ValueError("a count is not negative")
        self.record_many(ns, n)

    def percentile_ns(self, double percent):
        """The value `percent` of the records do not exceed: upper end of its bucket, at most the maximum; 0 when empty."""
        cdef int64_t wanted, seen = 0, bucket
        cdef double exact
        if not 0.0 <= percent <= 100.0:
            raise ValueError("a percentile is between 0 and 100")
        if self.count == 0:
            return 0
        exact = percent / 100.0 * <double>self.count
        wanted = <int64_t>exact
        if <double>wanted < exact:
            wanted += 1
        if wanted < 1:
            wanted = 1
        if wanted > self.count:
            wanted = self.count
        for bucket in range(BUCKETS):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(high_of(bucket), self.max_ns)
        return self.max_ns

    def percentiles_ns(self, percents):
        """Several at once, in the order asked."""
        return [self.percentile_ns(percent) for percent in percents]

    def cumulative(self, bounds_ns):
        """For ascending bounds: how many records lie at or below each, counting a bucket once its middle does."""
        cdef int64_t bucket = 0, seen = 0, bound, last = -1
        result = []
        for item in bounds_ns:
            bound = item
            if bound < last:
                raise ValueError("bounds must ascend")
            last = bound
            while bucket < BUCKETS and low_of(bucket) + ((high_of(bucket) - low_of(bucket)) >> 1) <= bound:
                seen += self.counts[bucket]
                bucket += 1
            result.append(seen)
        return result

    def buckets(self):
        """Every non-empty bucket as (lowest ns, highest ns, count): for export to other histogram formats."""
        cdef int64_t bucket
        return [
            (low_of(bucket), high_of(bucket), self.counts[bucket])
            for bucket in range(BUCKETS)
            if self.counts[bucket] != 0
        ]

    def merge(self, Histogram other not None):
        """Adds all records of another histogram."""
        cdef int64_t bucket
        if other.count == 0:
            return
        for bucket in range(BUCKETS):
            self.counts[bucket] += other.counts[bucket]
        if self.count == 0 or other.min_ns < self.min_ns:
            self.min_ns = other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.count += other.count
        if other.total_ns > INT64_TOP - self.total_ns:
            self.total_ns = INT64_TOP
        else:
            self.total_ns += other.total_ns

    def reset(self):
        """Empty again."""
        memset(self.counts, 0, sizeof(self.counts))
        self.count = self.total_ns = self.max_ns = self.min_ns = 0

    def __repr__(self):
        return f"Histogram(count={self.count}, p50={self.percentile_ns(50.0)} ns, max={self.max_ns} ns)"


@cython.final
cdef class Counters:
    """A fixed number of int64 slots. Slots are numbers handed out once; adding costs an array write."""

    def __cinit__(self, int64_t size):
        if size <= 0 or size > 1_000_000:
            raise ValueError("between 1 and 1000000 slots")
        self.slots = <int64_t *>calloc(<size_t>size, sizeof(int64_t))
        if self.slots == NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        free(self.slots)

    cdef void add(self, int64_t slot, int64_t n) noexcept nogil:
        """No check: for kernels that hold slots handed out by the registry."""
        self.slots[slot] += n

    def inc(self, int64_t slot, int64_t n=1):
        """Adds n to a slot; IndexError for a slot that is none."""
        if slot < 0 or slot >= self.size:
            raise IndexError("no such counter")
        self.slots[slot] += n

    def set(self, int64_t slot, int64_t value):
        """Sets a slot (gauges, and counters restored after a restart)."""
        if slot < 0 or slot >= self.size:
            raise IndexError("no such counter")
        self.slots[slot] = value

    def get(self, int64_t slot):
        """The value of a slot."""
        if slot < 0 or slot >= self.size:
            raise IndexError("no such counter")
        return self.slots[slot]
