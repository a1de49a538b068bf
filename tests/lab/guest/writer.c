/*
 * A guest's conscience: writes to its disks and memory all the time, and checks that what it reads
 * is exactly what it wrote last.
 *
 *     writer PLACE...       a PLACE is mem:MIB, file:PATH:MIB, disk:PATH or disk:PATH:MIB
 *
 * Every write has a sequence number. It goes to one block of one place, both of which follow from
 * the number alone, and fills the block with what follows from (instance, place, block, number).
 * So memory need only hold the last number of every block, and a writer that is started again on
 * disks of an earlier one knows what must be on them: everything up to the last number found.
 * A write is finished (O_DIRECT and fsync) before the next begins.
 *
 * On standard output, one line each:
 *     writer: new instance I | writer: instance I goes on at seq N
 *     writer: seq N ok                 every BEAT writes
 *     writer: seq N all verified       every block of every place was read and was right
 *     writer: FAULT ...                then it stops
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, WORDS = BLOCK / 8, RUN = 16, PLACES = 8, BEAT = 32, VERIFY = 512, NOTE = 16 };
static const uint64_t MAGIC = 0x62616c2d64766d78;

struct place {
    const char *name;
    int fd;                 /* -1: memory */
    uint64_t *memory;
    uint64_t blocks;
    uint64_t *last;         /* number of the last write of every block, 0 for the first filling */
};

struct head { uint64_t magic, instance, place, block, seq; };

static struct place places[PLACES];
static int count;
static uint64_t instance, total_blocks;
static uint64_t *run;       /* RUN blocks, aligned for O_DIRECT */
static char note[4096];     /* file that holds the last number as text, replaced by renaming */

static void fault(const char *format, ...)
{
    va_list args;
    printf("writer: FAULT ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static void fill(uint64_t *data, uint64_t place, uint64_t block, uint64_t seq)
{
    struct head head = { MAGIC, instance, place, block, seq };
    uint64_t word = mix(mix(mix(mix(instance) ^ place) ^ block) ^ seq);

    memcpy(data, &head, sizeof head);
    for (unsigned i = sizeof head / 8; i < WORDS; i++)
        data[i] = word = word * 6364136223846793005u + 1442695040888963407u;
}

/* The block that a write goes to. */
static struct place *target(uint64_t seq, uint64_t *block)
{
    uint64_t number = mix(instance ^ mix(seq)) % total_blocks;

    for (int i = 0; i < count; i++) {
        if (number < places[i].blocks) {
            *block = number;
            return &places[i];
        }
        number -= places[i].blocks;
    }
    abort();
}

static void store(struct place *place, uint64_t block, unsigned blocks, const uint64_t *data)
{
    size_t size = (size_t)blocks * BLOCK;

    if (place->fd < 0) {
        memcpy(place->memory + block * WORDS, data, size);
        return;
    }
    if (pwrite(place->fd, data, size, block * BLOCK) != (ssize_t)size)
        fault("write of %s block %lu: %s", place->name, block, strerror(errno));
}

static void load(struct place *place, uint64_t block, unsigned blocks, uint64_t *data)
{
    size_t size = (size_t)blocks * BLOCK;

    if (place->fd < 0) {
        memcpy(data, place->memory + block * WORDS, size);
        return;
    }
    if (pread(place->fd, data, size, block * BLOCK) != (ssize_t)size)
        fault("read of %s block %lu: %s", place->name, block, strerror(errno));
}

static void check(struct place *place, uint64_t block, const uint64_t *found)
{
    static uint64_t expected[WORDS];
    const struct head *head = (const struct head *)found;
    uint64_t seq = place->last[block], index = place - places;
    const char *what;

    fill(expected, index, block, seq);
    if (memcmp(found, expected, BLOCK) == 0)
        return;
    if (head->magic != MAGIC)
        what = found[0] == 0 && memcmp(found, found + 1, BLOCK - 8) == 0 ? "zeros" : "garbage";
    else if (head->instance != instance)
        what = "foreign";
    else if (head->place != index || head->block != block)
        what = "misplaced";
    else if (head->seq < seq)
        what = "stale";
    else
        what = head->seq > seq ? "duplicate writer" : "damaged";
    fault("%s: %s block %lu has seq %lu, expected %lu", what, place->name, block,
          head->magic == MAGIC ? head->seq : 0, seq);
}

static void verify_all(void)
{
    for (int i = 0; i < count; i++)
        for (uint64_t block = 0; block < places[i].blocks; block += RUN) {
            uint64_t left = places[i].blocks - block;
            unsigned blocks = left < RUN ? left : RUN;
            load(&places[i], block, blocks, run);
            for (unsigned k = 0; k < blocks; k++)
                check(&places[i], block + k, run + k * WORDS);
        }
}

static void sync_place(struct place *place)
{
    if (place->fd >= 0 && fsync(place->fd) != 0)
        fault("fsync of %s: %s", place->name, strerror(errno));
}

/* Exercises the file system's own structures: a new file, renamed over the old one. */
static void write_note(uint64_t seq)
{
    char temporary[sizeof note + 4];
    int fd;

    if (!note[0])
        return;
    snprintf(temporary, sizeof temporary, "%s.new", note);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || dprintf(fd, "%lu\n", seq) < 0 || fsync(fd) != 0 || close(fd) != 0 ||
        rename(temporary, note) != 0)
        fault("note %s: %s", note, strerror(errno));
}

static uint64_t read_note(void)
{
    unsigned long seq = 0;
    FILE *file = note[0] ? fopen(note, "r") : NULL;

    if (file) {
        if (fscanf(file, "%lu", &seq) != 1)
            fault("note %s holds no number", note);
        fclose(file);
    }
    return seq;
}

static void open_place(char *text)
{
    struct place *place = &places[count];
    char *path = strchr(text, ':'), *size = NULL;
    uint64_t bytes = 0;

    if (!path || count == PLACES) {
        fprintf(stderr, "usage: writer PLACE...: mem:MIB, file:PATH:MIB or disk:PATH[:MIB]\n");
        exit(2);
    }
    *path++ = 0;
    place->name = path;
    place->fd = -1;
    if (strcmp(text, "mem") == 0) {
        place->name = "memory";
        bytes = strtoull(path, NULL, 10) << 20;
        place->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (place->memory == MAP_FAILED)
            fault("memory: %s", strerror(errno));
    } else if (strcmp(text, "file") == 0 && (size = strchr(path, ':'))) {
        *size++ = 0;
        bytes = strtoull(size, NULL, 10) << 20;
        place->fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0644);
        if (place->fd < 0 || posix_fallocate(place->fd, 0, bytes) != 0)
            fault("file %s: %s", path, strerror(errno));
        snprintf(note, sizeof note, "%s.note", path);
    } else {
        if ((size = strchr(path, ':')))
            *size++ = 0;
        place->fd = open(path, O_RDWR | O_DIRECT);
        if (place->fd < 0 || ioctl(place->fd, BLKGETSIZE64, &bytes) != 0)
            fault("disk %s: %s", path, strerror(errno));
        if (size && strtoull(size, NULL, 10) << 20 < bytes)
            bytes = strtoull(size, NULL, 10) << 20;
    }
    place->blocks = bytes / BLOCK;
    place->last = calloc(place->blocks, sizeof *place->last);
    total_blocks += place->blocks;
    count++;
}

static void fill_place(int index)
{
    struct place *place = &places[index];

    for (uint64_t block = 0; block < place->blocks; block += RUN) {
        uint64_t left = place->blocks - block;
        unsigned blocks = left < RUN ? left : RUN;
        for (unsigned k = 0; k < blocks; k++)
            fill(run + k * WORDS, index, block + k, place->last[block + k]);
        store(place, block, blocks, run);
    }
    sync_place(place);
}

/* Finds an earlier writer on the disks: its instance and the last number. 0: there was none. */
static uint64_t find_earlier(int *found)
{
    uint64_t last = 0;

    *found = 0;
    for (int i = 0; i < count; i++) {
        if (places[i].fd < 0)
            continue;
        for (uint64_t block = 0; block < places[i].blocks; block++) {
            const struct head *head = (const struct head *)run;
            load(&places[i], block, 1, run);
            if (head->magic != MAGIC) {
                if (*found)
                    fault("lost: %s block %lu was never filled", places[i].name, block);
                return 0;
            }
            if (*found && head->instance != instance)
                fault("foreign: %s block %lu", places[i].name, block);
            *found = 1;
            instance = head->instance;
            if (head->seq > last)
                last = head->seq;
        }
    }
    return last;
}

static uint64_t start(void)
{
    int found;
    uint64_t seq = find_earlier(&found), block;

    if (!found) {
        if (getrandom(&instance, sizeof instance, 4 /* GRND_INSECURE */) != sizeof instance)
            instance = mix(time(NULL));
        for (int i = 0; i < count; i++)
            fill_place(i);
        write_note(0);
        printf("writer: new instance %lx\n", instance);
        return 0;
    }
    if (read_note() > seq)
        fault("lost: the note says seq %lu, the disks have %lu", read_note(), seq);
    for (uint64_t n = 1; n <= seq; n++) {
        struct place *place = target(n, &block);
        place->last[block] = n;
    }
    for (int i = 0; i < count; i++)
        if (places[i].fd < 0)
            fill_place(i);
    verify_all();
    printf("writer: instance %lx goes on at seq %lu\n", instance, seq);
    return seq;
}

int main(int argc, char **argv)
{
    uint64_t seq, block;
    static uint64_t data[WORDS] __attribute__((aligned(BLOCK)));

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (posix_memalign((void **)&run, BLOCK, RUN * BLOCK) != 0)
        fault("no memory");
    for (int i = 1; i < argc; i++)
        open_place(argv[i]);
    if (!count)
        open_place((char[]){""});
    for (seq = start() + 1;; seq++) {
        struct place *place = target(seq, &block);
        load(place, block, 1, run);
        check(place, block, run);
        fill(data, place - places, block, seq);
        store(place, block, 1, data);
        sync_place(place);
        place->last[block] = seq;
        if (seq % NOTE == 0)
            write_note(seq);
        if (seq % BEAT == 0)
            printf("writer: seq %lu ok\n", seq);
        if (seq % VERIFY == 0) {
            verify_all();
            printf("writer: seq %lu all verified\n", seq);
        }
        usleep(20000);
    }
}
