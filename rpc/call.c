/* What all calls share, whatever their session: deadlines, counting. Runs on the shard that owns the call.
 *
 * Latency is from the turn that received the request to the turn that answered it, read once a turn for all of its replies. */
#include "rpc/call.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "rpc/budget.h"
#include "rpc/gzip.h"
#include "rpc/session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rpc_shard_init(struct rpc_shard *r, struct shard *s, const struct method_table *methods,
		   const struct rpc_opts *opts)
{
	*r = (struct rpc_shard){.shard = s, .opts = opts, .methods = methods};
	r->stats = calloc(methods->count + 1, sizeof *r->stats);
	if (!r->stats)
		return -ENOMEM;
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
	run_flush(r);
	r->reply_ns = 0;
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
	if (timeout_ns == 0)
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
