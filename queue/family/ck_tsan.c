/* What ThreadSanitizer's runtime asks a program for: reports that are not faults. Unused in other builds; ck.h
 * explains the entries. */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "race:_ck_ring_dequeue_mc\n";
}
