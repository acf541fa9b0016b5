/* What all calls share, whatever their session: deadlines, counting. Runs on the shard that owns the call.
 *
 * Latency is from the turn that received the request to the turn that answered it, read once a turn for all of its replies. */
#include "rpc/call.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log_limit.h"
#include "core/tls.h"
#include "rpc/budget.h"
#include "rpc/gzip.h"
#include "rpc/session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int rpc_shard_init(struct rpc_shard *r, struct shard *s, const struct method_table *methods,
		   const struct rpc_opts *opts)
{
	*r = (struct rpc_shard){.shard = s, .opts = opts, .methods = methods};
	r->stats = calloc(methods->count + 1, sizeof *r->stats);
	r->refusals = calloc(1, sizeof *r->refusals);
	if (!r->stats || !r->refusals) {
		free(r->stats);
		free(r->refusals);
		r->stats = NULL;
		r->refusals = NULL;
		return -ENOMEM;
	}
	if (getrandom(&r->secret, sizeof r->secret, 0) != (ssize_t)sizeof r->secret) {
		free(r->stats);
		free(r->refusals);
		r->stats = NULL;
		r->refusals = NULL;
		return -EIO;
	}
	if (opts->access)
		r->access = access_source_get(opts->access, &r->access_gen);
	for (unsigned i = 0; i <= methods->count; i++)
		hist_init(&r->stats[i].latency_ns);
	return session_pools_init(r);
}

void rpc_shard_done(struct rpc_shard *r)
{
	session_pools_done(r);
	gzip_free(r->gzip);
	r->gzip = NULL;
	if (r->budget)
		budget_done(r->budget);
	free(r->budget);
	r->budget = NULL;
	free(r->stats);
	r->stats = NULL;
	free(r->refusals);
	r->refusals = NULL;
	access_put(r->access);
	r->access = NULL;
}

static void run_flush(struct rpc_shard *r)
{
	if (r->run_count) {
		struct method_stats *m = &r->stats[r->run_method];
		hist_add(&m->latency_ns, r->run_ns, r->run_count);
		hist_bump(&m->by_status[GRPC_OK], r->run_count);
		r->run_count = 0;
	}
}

void rpc_shard_turn(struct rpc_shard *r)
{
	struct access_source *a = r->opts->access;
	assembly_turn(&r->assembly, &r->opts->assembly);
	run_flush(r);
	r->reply_ns = 0;
	if (a && unlikely(atomic_load_explicit(&a->generation, memory_order_relaxed) != r->access_gen)) {
		uint32_t generation;
		struct access *old = r->access;
		r->access = access_source_get(a, &generation);
		__atomic_store_n(&r->access_gen, generation, __ATOMIC_RELAXED);
		access_put(old);
	}
}

void call_begin(struct call *c, const struct method *m, uint16_t index, uint64_t timeout_ns)
{
	struct rpc_shard *r = c->rpc;
	c->method = m;
	c->method_index = index;
	c->start_ns = r->shard->now_ns;
	c->deadline_ns = 0;
	c->timer.next = NULL;
	c->live = true;
	c->seen = c->ended_send = c->compress = false;
	c->extra = m->metadata ? calloc(1, sizeof *c->extra) : NULL;
	memset(&c->svc, 0, sizeof c->svc);
	if (m->kind == METHOD_UNARY && r->opts->call_ns && (timeout_ns == 0 || timeout_ns > r->opts->call_ns))
		timeout_ns = r->opts->call_ns;
	if (timeout_ns) {
		c->deadline_ns = c->start_ns + timeout_ns < c->start_ns ? UINT64_MAX : c->start_ns + timeout_ns;
		wheel_add(&r->shard->wheel, &c->timer, c->deadline_ns);
	}
	count_add(&r->calls, 1);
}

void call_end(struct call *c, enum grpc_status status)
{
	struct rpc_shard *r = c->rpc;
	DCHECK(c->live);
	CHECK((unsigned)status < GRPC_STATUS_COUNT); /* call_finish sees to it */
	c->live = false;
	count_add(&r->calls, -1);
	if (timer_is_armed(&c->timer))
		wheel_del(&r->shard->wheel, &c->timer);
	if (r->reply_ns == 0)
		r->reply_ns = clock_mono_ns();
	uint64_t ns = r->reply_ns > c->start_ns ? r->reply_ns - c->start_ns : 0;
	if (status != GRPC_OK) {
		hist_bump(&r->stats[c->method_index].by_status[status], 1);
		hist_add(&r->stats[c->method_index].latency_ns, ns, 1);
		return;
	}
	if (c->method_index != r->run_method || ns != r->run_ns) {
		run_flush(r);
		r->run_method = c->method_index;
		r->run_ns = ns;
	}
	r->run_count++;
}

void call_extra_release(struct call *c)
{
	metadata_free(&c->extra->request);
	metadata_free(&c->extra->initial);
	metadata_free(&c->extra->trailing);
	free(c->extra);
	c->extra = NULL;
}

void call_count_refused(struct rpc_shard *r, enum grpc_status status)
{
	hist_bump(&r->stats[r->methods->count].by_status[status], 1);
}

void call_finish_text(struct call *c, enum grpc_status status, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
	call_finish(c, status, (struct span){(const uint8_t *)text, len});
}

/* Refusals. */

void call_note_refusal(struct rpc_shard *r, const struct conn *c, enum refusal why, const char *text)
{
	static struct log_limit said[REFUSAL_COUNT];
	unsigned long long more;
	char peer[64];
	refusals_note(r->refusals, c->ip, why);
	if (log_limit_pass(&said[why], refusal_line(why), &more))
		log_info("%s to %s: %s (%llu more such in the burst before)", refusal_line(why),
			 conn_peer(c, peer, sizeof peer), text, more);
}

/* What the ends of connections count as. `text`: where nobody has logged it. */
static const struct end {
	bool counts;
	enum refusal why;
	const char *text;
} ends[CONN_R_COUNT] = {
	[CONN_R_PROTOCOL] = {true, REFUSAL_PROTOCOL, NULL},
	[CONN_R_TIMEOUT] = {true, REFUSAL_TIMEOUT,
			    "the connection: its first bytes, or the rest of a frame, did not come in time "
			    "(PREFACE_TIMEOUT_MS, BODY_TIMEOUT_MS)"},
	[CONN_R_STALLED] = {true, REFUSAL_STALLED, "the connection: it took no output for STALL_TIMEOUT_MS"},
	[CONN_R_QUEUE] = {true, REFUSAL_QUEUE, "the connection: more than CONN_QUEUE_MAX waits to be sent to it"},
	[CONN_R_FLOOD] = {true, REFUSAL_FLOOD, NULL},
	[CONN_R_MEMORY] = {true, REFUSAL_MEMORY, "the connection: no memory for it"},
	[CONN_R_ACCESS] = {true, REFUSAL_UNAUTHENTICATED, NULL},
};

void call_count_end(struct rpc_shard *r, const struct conn *c)
{
	if (ends[c->reason].counts)
		refusals_note(r->refusals, c->ip, ends[c->reason].why);
}

void call_note_end(struct rpc_shard *r, const struct conn *c)
{
	if (ends[c->reason].text)
		call_note_refusal(r, c, ends[c->reason].why, ends[c->reason].text);
	else
		call_count_end(r, c);
}

const char *call_note_full(struct rpc_shard *r, const struct conn *c, const struct slab *calls)
{
	bool full = calls->used >= calls->max;
	const char *text = full ? "as many calls as CALLS_MAX allows are in flight on this shard"
				: "no memory for another call";
	call_note_refusal(r, c, full ? REFUSAL_CALLS : REFUSAL_MEMORY, text);
	return text;
}

void call_bound_answer(enum grpc_status *status, struct span *text)
{
	*status = grpc_status_of((unsigned)*status);
	if (text->n <= CALL_TEXT_MAX)
		return;
	text->n = CALL_TEXT_MAX;
	while (text->n > CALL_TEXT_MAX - 4 && (text->p[text->n] & 0xc0) == 0x80) /* not within a character */
		text->n--;
}

void call_note_answer(struct call *c, enum grpc_status status, struct span text)
{
	char line[256];
	snprintf(line, sizeof line, "%s.%s: %.*s", c->method->service, c->method->name,
		 (int)(text.n < 200 ? text.n : 200), text.n ? (const char *)text.p : "");
	call_note_refusal(c->rpc, c->conn, status == GRPC_RESOURCE_EXHAUSTED ? REFUSAL_LIMIT : REFUSAL_INVALID, line);
}

/* Access. */

uint64_t call_who_of(const struct rpc_shard *r, const struct conn *c)
{
	return r->access && c->tls ? access_who_certificate(r->access, tls_client_name(c->tls)) : ACCESS_WHO_NOBODY;
}

/* The sentence for the peer, and what the log says of it. `needs` is the right's word, and `name` what stands after it. */
static void explain(struct rpc_shard *r, struct conn *c, enum access_verdict v, uint64_t who, const char *needs,
		    struct span name, struct call_refusal *ret)
{
	static struct log_limit said;
	unsigned long long more;
	char peer[64];
	ret->status = v == ACCESS_DENIED ? GRPC_PERMISSION_DENIED : GRPC_UNAUTHENTICATED;
	if (v == ACCESS_DENIED)
		snprintf(ret->text, sizeof ret->text, "\"%.60s\" lacks the right %s%.*s (ACCESS_FILE)",
			 access_name(r->access, who), needs, (int)(name.n < 100 ? name.n : 100),
			 name.n ? (const char *)name.p : "");
	else
		snprintf(ret->text, sizeof ret->text, "%s",
			 v == ACCESS_ANONYMOUS
				 ? "a token is needed: authorization: Bearer TOKEN, or in native framing an AUTH frame"
			 : v == ACCESS_EXPIRED ? "the token or certificate is past its until: (ACCESS_FILE)"
					       : "the token or certificate is not one of ACCESS_FILE");
	refusals_note(r->refusals, c->ip, v == ACCESS_DENIED ? REFUSAL_DENIED : REFUSAL_UNAUTHENTICATED);
	if (log_limit_pass(&said, "access refused", &more))
		log_warn("access refused to %s: %s (%llu more such in the burst before)",
			 conn_peer(c, peer, sizeof peer), ret->text, more);
}

bool call_is_admitted(struct rpc_shard *r, struct conn *c, const struct method *m, uint64_t who,
		      struct call_refusal *ret)
{
	enum access_verdict v = m->access == METHOD_FOR_ALL ? ACCESS_OK
				: m->access == METHOD_FOR_ADMINS
					? access_check(r->access, who, ACCESS_ADMIN, (struct span){0})
					: access_check_known(r->access, who);
	if (v)
		explain(r, c, v, who, access_right_word(ACCESS_ADMIN), (struct span){0}, ret);
	return v == ACCESS_OK;
}

void call_explain(struct call *c, enum access_right right, struct span name, struct call_refusal *ret)
{
	enum access_verdict v = access_check(c->rpc->access, c->who, right, name);
	bool named = right <= ACCESS_SUBSCRIBE;
	explain(c->rpc, c->conn, v, c->who, access_right_word(right), named ? name : (struct span){0}, ret);
}

void call_deny(struct call *c, enum access_right right, struct span name)
{
	struct call_refusal why;
	call_explain(c, right, name, &why);
	call_finish(c, why.status, (struct span){(const uint8_t *)why.text, strlen(why.text)});
}
